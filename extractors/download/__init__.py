"""Files from elsewhere, fetched once and checked; and how this machine reaches the web."""
