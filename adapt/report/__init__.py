"""Self-contained HTML pages: what a run did and what its models answer.

page.py          blocks, sections, a page; one template (page.html.j2)
charts.py        figures over rounds as SVG
pictures.py      crops and contact sheets as data URIs
clusters.py      which clusters to look at, and what cameras saw of them
rankings.py      what models answer to a query
maps.py          embeddings in two dimensions
verdict.py       a run in words
run_report.py    the page of a run folder
"""
