"""From features to pseudo labels: camera centering, distance graph, clusters."""
