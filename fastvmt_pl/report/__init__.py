"""One self-contained web page about finished transfers."""
