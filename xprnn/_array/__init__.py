"""Array helpers: namespaces and specs, argument checks, sequence layout. The ground of the package, private."""
