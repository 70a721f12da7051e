"""The HTML pages: rendered whole on the first load, in fragments while they are open."""
