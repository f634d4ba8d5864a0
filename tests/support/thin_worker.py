"""`python -m adapt` with thin trunks, such as the networks of its job have."""

from __future__ import annotations

import runpy

from tests.support.thin_trunks import thin_trunks

if __name__ == "__main__":
    with thin_trunks():
        runpy.run_module("adapt", run_name="__main__", alter_sys=True)
