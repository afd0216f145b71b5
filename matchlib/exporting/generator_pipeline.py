"""A generator of one evaluation, or a few, around a network of diffusers.

This file stands in a folder that ``DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)`` loads. It needs torch and diffusers.
"""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class GeneratorPipeline(DiffusionPipeline):
    """Samples by a table of numbers around a network.

    Args:
        unet: a UNet2DModel; or transformer, a DiTTransformer2DModel.
        vae: an AutoencoderKL, where samples are latents.
        start: a GaussianStart, where the source goes through one first.
        calls: for each evaluation its timestep, the weights of its input, and whether it is given the labels.
        sample: weights of the sample.
        noises: names of the noise that is drawn besides the source.
        shape: of an event, (channels, height, width).
        normalization: (shift, scale) of the data.
        limits: least and largest number of the data; of images that latents stand for, these are -1 and 1.
        label_shares: frequency of each class, as classes are drawn where none are given.

    Every set of weights belongs to tensors by name: ``source``, ``noise_1``, ..., ``prediction_1``, ...
    """

    model_cpu_offload_seq = "start->unet->transformer->vae"
    _optional_components = ["unet", "transformer", "vae", "start"]

    def __init__(
        self,
        unet=None,
        transformer=None,
        vae=None,
        start=None,
        calls=None,
        sample=None,
        noises=(),
        shape=None,
        normalization=(0.0, 1.0),
        limits=(-1.0, 1.0),
        label_shares=None,
    ):
        super().__init__()
        self.register_modules(unet=unet, transformer=transformer, vae=vae, start=start)
        self.register_to_config(
            calls=calls,
            sample=sample,
            noises=list(noises),
            shape=shape,
            normalization=list(normalization),
            limits=list(limits),
            label_shares=label_shares,
        )

    @torch.no_grad()
    def __call__(
        self,
        batch_size=1,
        class_labels=None,
        num_inference_steps=None,
        generator=None,
        latents=None,
        noises=None,
        output_type="pil",
        return_dict=True,
    ):
        """Generates samples.

        Args:
            batch_size: how many.
            class_labels: an integer, a list or a tensor; None draws classes as the data had them.
            num_inference_steps: None, or the number of evaluations that the generator was trained for.
            generator: of the random numbers.
            latents: the source, standard normal, ``(batch_size, channels, height, width)``; None draws it.
            noises: the further noise, a tensor for each of ``config.noises``; None draws it.
            output_type: ``pil``, ``np`` or ``pt`` for images between 0 and 1; ``latent`` for data, or latents, as they are.
        """
        config = self.config
        steps = len(config.calls)
        if num_inference_steps not in (None, steps):
            times = ", ".join(f"{call['timestep']:g}" for call in config.calls)
            raise ValueError(
                f"num_inference_steps must be {steps}: the generator was trained for {steps} evaluations, at timesteps {times}; "
                f"got {num_inference_steps}"
            )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
        shape, where = (batch_size, *config.shape), {"device": self._execution_device, "dtype": (self.unet or self.transformer).dtype}
        values = {"source": randn_tensor(shape, generator=generator, **where) if latents is None else latents.to(**where)}
        if tuple(values["source"].shape) != shape:
            raise ValueError(f"latents must have shape {shape}, got {tuple(values['source'].shape)}")
        if self.start is not None:
            values["source"] = self.start(values["source"])
        if noises is None:
            noises = [randn_tensor(shape, generator=generator, **where) for _ in config.noises]
        if len(noises) != len(config.noises):
            raise ValueError(f"noises must be {len(config.noises)} tensors, got {len(noises)}")
        values.update(zip(config.noises, (noise.to(**where) for noise in noises), strict=True))
        labels = self._labels(class_labels, batch_size, generator)
        for number, call in enumerate(self.progress_bar(config.calls), 1):
            time = torch.full((batch_size,), call["timestep"], device=where["device"], dtype=torch.float32)
            answer = self._answer(self._sum(call["input"], values), time, labels if call["labelled"] else None)
            values[f"prediction_{number}"] = answer[:, : shape[1]]  # without a learned variance
        shift, scale = config.normalization
        data = shift + scale * self._sum(config.sample, values)
        self.maybe_free_model_hooks()
        images = data if output_type == "latent" else self._images(data, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _answer(self, state, time, labels):
        if self.transformer is not None:
            if labels is None:
                labels = torch.full(time.shape, self.transformer.config.num_embeds_ada_norm, device=time.device)
            return self.transformer(state, timestep=time, class_labels=labels, return_dict=False)[0]
        given = {} if labels is None else {"class_labels": labels}
        return self.unet(state, time, return_dict=False, **given)[0]

    @staticmethod
    def _sum(weights, values):
        terms = [weight * values[name] for name, weight in weights.items()]
        return sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(values["source"])

    def _images(self, data, output_type):
        low, high = self.config.limits
        if self.vae is not None:
            config, (low, high) = self.vae.config, (-1.0, 1.0)
            mean, std = config.get("latents_mean"), config.get("latents_std")
            latents = data / (config.scaling_factor or 1.0)
            if mean is None or std is None:
                latents = latents + (config.get("shift_factor") or 0.0)
            else:
                mean, std = (torch.tensor(x, dtype=data.dtype, device=data.device)[:, None, None] for x in (mean, std))
                latents = latents * std + mean
            data = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        images = ((data - low) / (high - low)).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.float().cpu().permute(0, 2, 3, 1).numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)

    def _labels(self, class_labels, batch_size, generator):
        if not any(call["labelled"] for call in self.config.calls):
            if class_labels is not None:
                raise ValueError("this generator was trained without labels")
            return None
        if class_labels is None:
            first = generator[0] if isinstance(generator, list) else generator
            shares = torch.tensor(self.config.label_shares, device="cpu" if first is None else first.device)
            class_labels = torch.multinomial(shares, batch_size, replacement=True, generator=first)
        labels = torch.as_tensor(class_labels, device=self._execution_device).reshape(-1)
        if labels.is_floating_point():
            raise ValueError(f"class_labels must be integers, got {labels.dtype}")
        labels = labels.long()
        if labels.numel() == 1:
            labels = labels.expand(batch_size)
        classes = len(self.config.label_shares)
        if labels.numel() != batch_size or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"class_labels must be one integer or {batch_size}, from 0 to {classes - 1}")
        return labels
