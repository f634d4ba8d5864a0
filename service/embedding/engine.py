"""The engine: runs a model on decoded crops."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import INPUT_NAME, OUTPUT_NAME, Bundle, check_self_test
from models.errors import ModelError
from models.manifest import MODEL_FILE
from service.errors import EngineError, ModelLoadError
from service.types import ModelInfo

log = logging.getLogger("resight.engine")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class Engine(Protocol):
    """A model as the batcher uses it."""

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        ...

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B,H,W,3) uint8 RGB -> (B,D) float32 of unit length; called by one thread at a time.

        Raises:
            EngineError: the model did not run.
        """
        ...


def fingerprint(bundle: Bundle) -> str:
    """sha256 of what determines the vectors: the weights and the pre-processing.

    Two exports of the same weights have the same fingerprint, although the rest of their manifests
    (scores, time) may differ.
    """
    manifest = bundle.manifest
    parts = manifest.files[MODEL_FILE] + manifest.preprocessing.model_dump_json()
    return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True)
class OnnxEngine:
    """A bundle on ONNX Runtime. fallback: it runs on the CPU although the runtime has CUDA."""

    session: ort.InferenceSession
    model: ModelInfo
    fallback: bool

    @classmethod
    def load(
        cls, bundle: Bundle, *, provider: Literal["auto", "cpu", "cuda"], threads: int
    ) -> OnnxEngine:
        """Load a bundle, and check by its self-test that it gives the recorded vectors.

        Args:
            bundle: what to load.
            provider: auto: CUDA if this build of the runtime has it, else CPU.
            threads: of one run on the CPU; 0: one per core.

        Raises:
            ModelLoadError: files differ from their hashes, the graph does not match the manifest,
                the provider cannot be used, or the self-test fails.
        """
        try:
            bundle.verify()
        except ModelError as error:
            raise ModelLoadError(str(error)) from error
        providers = _providers(provider)
        session = _open_session(bundle, providers, threads)
        _check_contract(session, bundle)
        running = session.get_providers()[0]
        if provider == "cuda" and running != CUDA:
            raise ModelLoadError(
                f"provider is cuda, but the runtime fell back to {running}; check the driver and "
                "the CUDA libraries, or set provider to auto or cpu"
            )
        manifest = bundle.manifest
        info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            fingerprint=fingerprint(bundle),
            dimension=manifest.dimension,
            height=manifest.preprocessing.height,
            width=manifest.preprocessing.width,
            backbone=manifest.backbone,
            method=manifest.method,
            provider="cuda" if running == CUDA else "cpu",
        )
        engine = cls(session, info, fallback=CUDA in providers and running != CUDA)
        try:
            deviation = check_self_test(engine.embed, bundle)
        except (ModelError, EngineError) as error:
            raise ModelLoadError(str(error)) from error
        log.info(
            "model %s on %s: self-test deviation %.2g", info.reference, info.provider, deviation
        )
        return engine

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B,H,W,3) uint8 RGB -> (B,D) float32 of unit length; raises `EngineError`."""
        try:
            (vectors,) = self.session.run([OUTPUT_NAME], {INPUT_NAME: images})
        except Exception as error:  # the runtime's own errors have no common base
            log.exception("the model failed on a batch of %d", len(images))
            raise EngineError(f"the model failed ({type(error).__name__}); see the log") from error
        return cast("NDArray[np.float32]", vectors)


def _providers(wanted: Literal["auto", "cpu", "cuda"]) -> list[str]:
    available = ort.get_available_providers()
    if wanted == "cuda" and CUDA not in available:
        raise ModelLoadError(
            "provider is cuda, but this build of ONNX Runtime has no CUDA; install resight[gpu] "
            "instead of resight[cpu], or set provider to auto or cpu"
        )
    return [CUDA, CPU] if wanted != "cpu" and CUDA in available else [CPU]


def _open_session(bundle: Bundle, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if CUDA in providers:
        ort.preload_dlls()  # the CUDA libraries of the pip packages
    try:
        return ort.InferenceSession(
            str(bundle.model_path), sess_options=options, providers=list(providers)
        )
    except Exception as error:
        raise ModelLoadError(
            f"{bundle.model_path} cannot be loaded ({error}); export the bundle again"
        ) from error


def _check_contract(session: ort.InferenceSession, bundle: Bundle) -> None:
    shape = bundle.manifest.preprocessing
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()]
    expected_inputs = [(INPUT_NAME, "tensor(uint8)", [shape.height, shape.width, 3])]
    expected_outputs = [(OUTPUT_NAME, "tensor(float)", [bundle.manifest.dimension])]
    batch = session.get_inputs()[0].shape[0] if inputs else None
    if inputs != expected_inputs or outputs != expected_outputs or isinstance(batch, int):
        raise ModelLoadError(
            f"{bundle.reference} takes {inputs} and gives {outputs}, not {expected_inputs} and "
            f"{expected_outputs} with a free batch size; export or wrap the model again"
        )
