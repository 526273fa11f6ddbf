"""Tasks on Ray: starting Ray, its actors, and the scheduler that makes every task succeed or fail on record.

Only this package imports Ray.
"""
