"""What a team already runs for lineage, figures and traces is told of what happens here: each part an extra.

Nothing of it is imported, started or connected to where its setting is not there. What cannot be reached fails no run
and no request: runs are told of by a sensor that goes on where it stopped, spans are dropped.
"""
