"""`fission view`: the trajectories and fission trees of a run in a terminal.

`index.py` knows where everything lies in the file and `reading.py` what it looks like; only `app.py` needs textual.
"""
