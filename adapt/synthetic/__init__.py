"""Synthetic sites: identity-labelled pedestrians seen by several cameras, drawn from a seed."""

from adapt.synthetic.person import Figure
from adapt.synthetic.site import (
    SITE_A,
    SITE_B,
    Post,
    SiteSpec,
    SiteSummary,
    people_of,
    posts_of,
    render_crop,
    render_site,
)

__all__ = [
    "SITE_A",
    "SITE_B",
    "Figure",
    "Post",
    "SiteSpec",
    "SiteSummary",
    "people_of",
    "posts_of",
    "render_crop",
    "render_site",
]
