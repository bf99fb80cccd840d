"""What people and files say, checked: mixtapes, locks, manifests. Pure: no network, no clock, no subprocess."""
