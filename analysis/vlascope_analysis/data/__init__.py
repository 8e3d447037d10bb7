"""From a selection of the store to arrays, tables and labels."""
