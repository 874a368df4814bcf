"""What is computed: cells of operation, shape, dtype, threads and place in memory; their arrays; what is right."""
