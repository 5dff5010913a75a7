"""Measurements, with the raw limit or a peer beside them (``make bench``)."""

from gatelog.kinds import register_all

register_all()
