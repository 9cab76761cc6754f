"""Several processes: collectives between the workers of a group, and the Ray cluster that a command joins.

Imports :mod:`rdistill.core` only. Begin with :mod:`rdistill.distributed.collectives` (sums and objects across the
workers of a run), then :mod:`rdistill.distributed.cluster` (Ray: connect, resources, waiting).
"""
