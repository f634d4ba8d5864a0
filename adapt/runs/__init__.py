"""Run folders: what a training run was, did and left behind.

info.py          what is written of it: recipe, data, versions, how it ended
folder.py        its files, made, read and replaced;  lock.py  by one process at a time
checkpoints.py   when its state is kept there, and how it is asked to stop
listing.py       runs in a table, side by side
"""
