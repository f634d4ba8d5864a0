"""Runs of the tables: used again only if they are the ones asked for, collapses included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.folders import read_market
from adapt.data.catalog.sources import merge_sources
from adapt.errors import StoppedError
from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.runs.info import Origin
from adapt.runs.spec import RunSpec
from adapt.runtime.context import StopRequest
from benchmarks.methods.arms import ARMS, SUPERVISED
from benchmarks.methods.runs import BenchmarkSite, Wanted, adapted, differences, made, same_recipe
from models.image import Preprocessing
from tests.support.specs import pretrain_spec
from tests.support.thin_trunks import thin_trunks
from tests.support.tiny_sets import write_market
from tests.support.tiny_site import KMEANS, source_run, tiny_site


def changed_spec(wanted: Wanted, **changes: object) -> RunSpec:
    return wanted.spec.model_copy(update=changes)


@pytest.fixture(scope="module")
def thin_site(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkSite:
    with thin_trunks():
        return tiny_site(tmp_path_factory.mktemp("site"), *KMEANS)


def nothing() -> None:
    """Work that must not be called for, or leaves nothing: then opening the run fails."""


@pytest.mark.usefixtures("quick")
def test_an_earlier_run_must_be_the_same_in_all_that_decides_it(tmp_path: Path) -> None:
    sets = [write_market(tmp_path / name, persons=3, seed=n) for n, name in enumerate("ab")]
    (own,), (other,) = ((merge_sources([read_market(root, ("train",))]),) for root in sets)
    run = source_run(sets[0], tmp_path / "run", 1)
    wanted = Wanted(pretrain_spec(sets[0]), run.path, (own,))
    assert made(wanted, nothing).run.path == run.path
    for name, changes in {
        "data": {"crops": (other,)},
        "seed": {"spec": changed_spec(wanted, seed=2)},
        "recipe": {
            "spec": changed_spec(wanted, recipe=load_recipe("source_small", method="source"))
        },
        "weights": {"origin": Origin(weights="0" * 64)},
        "inits": {"origin": Origin(inits=("0" * 64,))},
        "backbone": {"spec": changed_spec(wanted, backbone="resnet34")},
        "preprocessing": {
            "spec": changed_spec(wanted, preprocessing=Preprocessing(height=64, width=16))
        },
    }.items():
        changed = replace(wanted, **changes)  # type: ignore[arg-type]
        assert name in differences(run, changed)
        with pytest.raises(SystemExit, match=f"another .*{name}.*: remove it"):
            made(changed, nothing)
    older = Preprocessing(height=32, width=16, decoder="exact-1")
    assert not differences(run, replace(wanted, spec=changed_spec(wanted, preprocessing=older)))
    for state in ("running", "failed"):
        (run.path / "run.json").write_text(
            run.info.model_copy(update={"state": state}).model_dump_json()
        )
        with pytest.raises(SystemExit, match="did not finish"):
            made(wanted, nothing)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    data = write_market(tmp_path / "a", persons=3, seed=0)
    crops = merge_sources([read_market(data, ("train",))])
    asked = StopRequest()
    asked.make()
    with pytest.raises(StoppedError):
        source_run(data, tmp_path / "run", 1, asked)
    wanted = Wanted(pretrain_spec(data), tmp_path / "run", (crops,))
    with pytest.raises(SystemExit, match="another seed: remove it"):
        made(replace(wanted, spec=changed_spec(wanted, seed=2)), nothing)
    assert Run.open(wanted.out).info.state == "stopped"
    assert made(wanted, nothing).finished().info.state == "finished"


def test_recipes_are_the_same_if_they_train_alike() -> None:
    recipe = load_recipe("mmt_small", method="mmt")
    assert same_recipe(recipe.model_copy(update={"source": "another description"}), recipe)
    for change in ("batch.ghost=16", "batch.across_cameras=false", "options.networks=1"):
        assert not same_recipe(load_recipe("mmt_small", method="mmt", overrides=[change]), recipe)
    source = load_recipe("source_small", method="source")
    other = ["clustering.algorithm=dbscan"]
    changed = load_recipe("source_small", method="source", overrides=other)
    assert same_recipe(changed, source), "pre-training clusters nothing"


def test_a_run_is_measured_beside_its_folder_and_used_again(tmp_path: Path) -> None:
    """In a process of its own, whose memory nobody else holds."""
    site = tiny_site(tmp_path, *KMEANS)
    out = tmp_path / "plain-1"
    outcome = adapted(ARMS["plain"], site, out, 1)
    cost = json.loads((tmp_path / "plain-1.cost.json").read_text())
    assert outcome.ended == "finished"
    assert outcome.peak == cost["peak"] > 100e6, "torch alone needs more"
    assert outcome.minutes == Run.open(out).info.seconds / 60 > 0
    assert Run.open(out).info.origin.inits == (site.inits[0].network_hash(),), "one network"
    (tmp_path / "plain-1.cost.json").write_text(json.dumps(cost | {"peak": 7}))
    assert adapted(ARMS["plain"], site, out, 1).peak == 7, "not made again"


@pytest.mark.usefixtures("quick")
def test_a_collapse_is_an_outcome_and_stays_one(thin_site: BenchmarkSite, tmp_path: Path) -> None:
    site = replace(thin_site, overrides=(*thin_site.overrides, "batch.identities=5"))
    first = adapted(ARMS["mmt"], site, tmp_path / "mmt-1", 1)
    assert first.ended == "stopped in round 1 (CLUSTERS_COLLAPSED)"
    assert "batches need 5" in first.run.info.error
    with pytest.raises(SystemExit, match="batches need 5"):
        first.finished()
    stamp = (tmp_path / "mmt-1" / "run.json").stat().st_mtime_ns
    assert adapted(ARMS["mmt"], site, tmp_path / "mmt-1", 1).ended == first.ended
    assert (tmp_path / "mmt-1" / "run.json").stat().st_mtime_ns == stamp, "not made again"


@pytest.mark.usefixtures("quick")
def test_source_crops_go_where_they_are_wanted(thin_site: BenchmarkSite, tmp_path: Path) -> None:
    run = adapted(ARMS["daal"], thin_site, tmp_path / "daal-1", 1).run
    assert run.info.method == "daal"
    assert "loss_id_source" in run.metrics()[0]


@pytest.mark.usefixtures("quick")
def test_the_ceiling_learns_the_sites_labels_from_the_source_network(
    thin_site: BenchmarkSite, tmp_path: Path
) -> None:
    site = thin_site
    ceiling = adapted(SUPERVISED, site, tmp_path / "supervised-1", 1).run.info
    first = site.inits[0]
    assert ceiling.origin.weights == first.network_hash()
    assert [d.root for d in ceiling.data] == [str(site.target), str(site.source)]
