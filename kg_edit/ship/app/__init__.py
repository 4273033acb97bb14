"""`kg-edit serve`: a local web page to try an edit before and after, with its JSON API (extra ``app``)."""
