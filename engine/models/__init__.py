"""From a model's name to a model that runs: names, checks of everything a folder brings, loading, precision.

    resolve(name)  ->  folder  ->  check_folder  ->  load_model  ->  LoadedModel

Model folders are untrusted: no code from them is run, no pickle is opened, and sizes are checked before anything is
allocated for them. Knows nothing of requests or scheduling.
"""
