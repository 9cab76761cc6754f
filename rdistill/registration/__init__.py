"""The doors for extensions: names that a config or sweep file may use, from rdistill, a user's module or a package.

What is registered lives in the folder of its kind (:mod:`rdistill.losses` and so on); here is what all kinds share: the
registry, the declaration of parameters, the import of users' modules. Imports from :mod:`rdistill.core` alone, and
neither torch nor mmengine. Begin with :mod:`.registry`.
"""
