"""One search an area, brought to its exact number of trials."""
