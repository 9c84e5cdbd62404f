"""Speculative decoding: the place of the drafters.

The step is ready for them: spans of several tokens verify in one forward on ragged rows, and `truncate` takes back what
the model disagrees with. No drafter exists yet.
"""
