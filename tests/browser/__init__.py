"""A package, unlike its neighbours: pytest closes fixtures of scope `package` only behind a package's last test."""
