"""Other engines that run a graph, on the same graph in the same run: `python -m bench rivals`.

The graph: no-op nodes in layers of 50, two parents each, as far as the engine can say that. Each engine comes in a
file of this folder that is run by the Python of a virtual environment into which it is installed. What cannot be
installed is left out, with the reason. Beside each figure stands what is on disk when a node counts as done: engines
that promise less are faster. Then each is killed three times in one run, and what ran twice is counted.
"""
