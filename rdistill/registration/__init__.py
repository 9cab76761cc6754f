"""The extension points: names that a config or sweep file may use, from rdistill, a user's module or a package.

Each kind of entry has its own folder (:mod:`rdistill.losses` and so on). This folder has what all kinds share: the
registry, the declaration of parameters, and the import of users' modules. Imports :mod:`rdistill.core` only, and
neither torch nor mmengine. Begin with :mod:`.registry`.
"""
