"""Which label-free proxies tell the better of two models, and the rule made of them."""
