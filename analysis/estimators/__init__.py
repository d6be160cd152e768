"""Numbers read off attention, one idea a file; all take arrays whose leading axes are free (layer, head, ...)."""
