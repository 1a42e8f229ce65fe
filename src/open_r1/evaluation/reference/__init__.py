"""A run beside what was published, or beside what its own recipe has given before.

A file of `recipes/reference` holds either published figures (`models`) or the curves of a training (`metrics`):

* `beside` sets an evaluation next to the published figures of its benchmark: ours, theirs, the difference, and whether
  noise alone explains it.
* `place` says whether a training's curves are normal. Curves made of several finished runs (`make`) have a band in
  which a further run of the same recipe lies; published ones have none, and are compared by shape.

Shares are 0..1 here. Published figures stand in their files as they were printed, in percent.
"""
