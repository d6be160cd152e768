"""The Recordings page: what is on disk, compared, downloaded, deleted. Only this page removes files of the user."""
