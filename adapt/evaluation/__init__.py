"""How good a model is, with labels (mAP, CMC) and without (proxies, gate)."""
