"""From a label to the items that it may mean."""
