"""The Recordings page: what is on disk, compared, downloaded, deleted."""
