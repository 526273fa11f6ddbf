"""From a URL to pictures: `sources` finds shards, `streams` reads them, `decode` makes pictures."""
