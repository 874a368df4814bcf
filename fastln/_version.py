"""The version, in a file that the build can read without importing the package.

Between releases it ends in .dev0 and names the release to come: 0.1.0.dev0 sorts before 0.1.0.
"""

__version__ = "0.1.0.dev0"
