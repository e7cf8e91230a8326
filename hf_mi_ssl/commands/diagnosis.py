"""What `hf-mi-ssl doctor` finds: checks of the arguments and the model, and ten steps."""

import torch

from ..configuration import JMIConfig, SDMIConfig
from ..data import open_train_and_held_out
from ..encoders import encoder_config, load_encoder
from ..errors import UserError
from ..methods import get_method
from ..modeling_jmi import JMIForPreTraining
from ..modeling_sdmi import SDMIForPreTraining
from ..training import Plan, PretrainingArguments
from .checks import examine
from .subject import Finding, Subject, memory
from .trial import findings, try_steps

_PARADIGMS = {"sdmi": (SDMIConfig, SDMIForPreTraining), "jmi": (JMIConfig, JMIForPreTraining)}


def diagnose(
    args: PretrainingArguments, num_images: int | None = None, num_processes: int = 1, trial: bool = True
) -> list[Finding]:
    """What every check finds. With `num_images` the data stay closed, and no step is taken.

    Raises:
        UserError: for a row, an encoder or data that do not exist. What exists and does not fit is a finding.
    """
    config_class, model_class = _PARADIGMS[get_method(args.method).paradigm]
    encoder = load_encoder(args.init_from).config if args.init_from else encoder_config(args.encoder, args.image_size)
    config = config_class.from_method(args.method, encoder_config=encoder, **args.columns)
    with torch.device("meta"):  # shapes alone: no memory, no time
        model = model_class(config)
    train = held = None
    if num_images is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train, held = open_train_and_held_out(**args.data_arguments(), device=device)
        num_images = train.num_images
    try:
        plan = Plan(args, num_images, num_processes)
        model.check_images(args.image_size, args.local_view_size, args.per_device_train_batch_size)
        subject = Subject(args, model, plan)
        found = list(examine(subject))
    except UserError as error:
        return [Finding("recipe", "error", str(error))]
    if train is None or not trial:
        return [*found, memory(subject)]
    try:
        return [*found, *findings(try_steps(args, plan, train, held, model_class, config), plan)]
    except UserError as error:
        return [*found, Finding("trial", "error", str(error))]
