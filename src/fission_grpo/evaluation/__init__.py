"""Metrics of recovery, comparisons with intervals, and sessions that play tasks."""
