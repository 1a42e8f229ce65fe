"""A run beside published results, or beside earlier runs of its recipe.

A file of `recipes/reference` holds either published figures (`models`) or the curves of a training (`metrics`):

* `published.compare_published` sets an evaluation beside the published figures of its benchmark: ours, theirs, the
  difference, and whether noise alone explains it.
* `curves.place_run` shows whether a training's curves are normal. Curves made from several finished runs
  (`curves.build_reference`) have a band in which a further run of the same recipe lies; published ones have none, and
  are compared by shape.

Shares are 0..1 here. In their files published figures stand in percent, as they were printed.
"""
