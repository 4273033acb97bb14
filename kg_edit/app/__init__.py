"""`kg-edit serve`: a page on this machine to try an edit before and after, with its JSON API (extra ``app``)."""
