"""Tasks on Ray: Ray itself, its actors, and the scheduler that sees to it that every task is done. Only this room
imports Ray."""
