"""Results kept between runs: sealed entries on disk, and the actor that alone touches them."""
