"""Self-supervised pre-training as mutual information maximisation: L = J − M (arXiv 2510.01345).

Importing the package registers its models with the Auto classes of transformers, and does nothing else.
"""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from .configuration import JMIConfig, SDMIConfig
from .modeling_base import MIPreTrainingOutput
from .modeling_jmi import JMIForPreTraining, JMIModel
from .modeling_sdmi import SDMIForPreTraining, SDMIModel
from .version import __version__

for _config, _model, _pretraining in (
    (SDMIConfig, SDMIModel, SDMIForPreTraining),
    (JMIConfig, JMIModel, JMIForPreTraining),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForPreTraining.register(_config, _pretraining, exist_ok=True)

__all__ = [
    "JMIConfig",
    "JMIForPreTraining",
    "JMIModel",
    "MIPreTrainingOutput",
    "SDMIConfig",
    "SDMIForPreTraining",
    "SDMIModel",
    "__version__",
]
