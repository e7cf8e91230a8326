"""Self-supervised pre-training as mutual information maximisation: L = J − M (arXiv 2510.01345).

Importing the package makes its models known to the Auto classes of transformers, by name: torch and the models are
imported when one of them is used.
"""

import sys

from transformers.models.auto import auto_mappings

from .lazy import lazy_names
from .version import __version__ as __version__

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".modeling_sdmi": ("SDMIConfig", "SDMIForPreTraining", "SDMIModel"),
        ".modeling_jmi": ("JMIConfig", "JMIForPreTraining", "JMIModel"),
        ".modeling_base": ("MIPreTrainingOutput",),
        ".encoders": ("MIResNetConfig",),
    },
)

# AutoConfig takes the class of a configuration from the module of its model type, which here is this package. The
# modules of the models register them with the other Auto classes. AutoConfig has names of its own once it is imported.
_names = sys.modules.get("transformers.models.auto.configuration_auto", auto_mappings).CONFIG_MAPPING_NAMES
for _type, _config in {"sdmi": "SDMIConfig", "jmi": "JMIConfig", "mi_resnet": "MIResNetConfig"}.items():
    _names[_type] = _config
    sys.modules[f"transformers.models.{_type}"] = sys.modules[__name__]
