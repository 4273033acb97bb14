"""What a command shows of its results: before and after, report page, charts, shipping."""
