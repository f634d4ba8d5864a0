"""Resource names as of AIP-122: composed of ids, and parsed."""

from __future__ import annotations

from service.errors import BadNameError


def site_name(site: str) -> str:
    """ "sites/{site}"."""
    return f"sites/{site}"


def sighting_name(site: str, sighting: str) -> str:
    """ "sites/{site}/sightings/{sighting}"."""
    return f"sites/{site}/sightings/{sighting}"


def model_name(reference: str) -> str:
    """ "models/{name}@{version}"."""
    return f"models/{reference}"


def parse_site(name: str) -> str:
    """The site id of "sites/{site}"; raises `BadNameError`."""
    match name.split("/"):
        case ["sites", site]:
            return site
    raise BadNameError(f"{name[:160]!r} is not of the form sites/{{site}}")


def parse_sighting(name: str) -> tuple[str, str]:
    """(site id, sighting id) of "sites/{site}/sightings/{sighting}"; raises `BadNameError`."""
    match name.split("/"):
        case ["sites", site, "sightings", sighting]:
            return site, sighting
    raise BadNameError(f"{name[:160]!r} is not of the form sites/{{site}}/sightings/{{sighting}}")


def parse_model(name: str) -> str:
    """The reference of "models/{name}@{version}"; raises `BadNameError`."""
    match name.split("/"):
        case ["models", reference] if reference.count("@") == 1:
            return reference
    raise BadNameError(f"{name[:160]!r} is not of the form models/{{name}}@{{version}}")


def parse_model_or_name(name: str) -> str:
    """ "name" or "name@version" of "models/..."; raises `BadNameError`."""
    match name.split("/"):
        case ["models", reference] if reference:
            return reference
    raise BadNameError(
        f"{name[:160]!r} is not of the form models/{{name}} or models/{{name}}@{{version}}"
    )


def adaptation_name(site: str, adaptation: str) -> str:
    """ "sites/{site}/adaptations/{adaptation}"."""
    return f"sites/{site}/adaptations/{adaptation}"


def parse_adaptation(name: str) -> tuple[str, str]:
    """(site id, adaptation id) of "sites/{site}/adaptations/{adaptation}"; `BadNameError`."""
    match name.split("/"):
        case ["sites", site, "adaptations", adaptation]:
            return site, adaptation
    raise BadNameError(
        f"{name[:160]!r} is not of the form sites/{{site}}/adaptations/{{adaptation}}"
    )
