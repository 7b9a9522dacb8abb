"""What is wrong with data, found before anything is trained: findings are values, checks functions.

Each check takes the survey of all rows and returns findings; `check` runs them all, `brief` those
that cost next to nothing.
"""
