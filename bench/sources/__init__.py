"""Where features to compare methods on come from, one file a source."""
