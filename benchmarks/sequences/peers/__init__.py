"""How each library runs a layer-normalized LSTM: a function named after each work, for those who can."""
