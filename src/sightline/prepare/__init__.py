"""From a folder of images to checked, split and packed data sets."""
