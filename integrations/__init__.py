"""One module per framework, each importing its framework. They use the provider and know nothing of the server.

langchain   ChatBaseMLX, BaseMLXEmbeddings     pip install 'basemlx[langchain]'
"""
