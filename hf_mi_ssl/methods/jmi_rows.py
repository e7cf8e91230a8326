"""THE TABLE, JMI: one shared branch, an explicit marginal term. One row of data per method."""

from .registry import jmi

jmi(
    "jmi",
    "2510.01345",
    kind="bound",
    relations="the prototype: the Donsker–Varadhan bound of a shared encoder",
    critic="cosine",
    temperature=0.2,
    joint={"expected_score": 1.0},
    marginal={"exact": 1.0},
    projector_output_norm=True,
)
jmi(
    "jmi_taylor",
    "2510.01345",
    kind="surrogate",
    relations="jmi to second order in 1/τ; may exceed the mutual information",
    critic="cosine",
    temperature=0.5,
    joint={"expected_score": 1.0},
    marginal={"second_order": 1.0},
    projector_output_norm=True,
)
jmi(
    "simclr",
    "2002.05709",
    kind="bound",
    relations="equals −NT-Xent + log(2N − 1); InfoNCE with the other embeddings of both views as negatives, a bound "
    "in the population if both views have one law",
    critic="cosine",
    temperature=0.5,
    joint={"expected_score": 1.0},
    marginal={"nt_xent": 1.0},
    projector_hidden_size=2048,
)
jmi(
    "dcl",
    "2110.06848",
    kind="bound",
    relations="simclr without the positive in its denominator: the row-wise DV bound with both views as negatives, in"
    " the population and if both views have one law",
    critic="cosine",
    temperature=0.1,
    joint={"expected_score": 1.0},
    marginal={"decoupled": 1.0},
    projector_hidden_size=2048,
)
jmi(
    "spectral",
    "2106.04156",
    kind="surrogate",
    relations="half of it is the uncentred second order of DV: at most ½ (χ² + 1), and χ² may exceed MI by far; μ = "
    "1, and another μ is the weight of squared_score",
    critic="bounded_bilinear",
    temperature=1.0,
    joint={"expected_score": 2.0},
    marginal={"squared_score": 1.0},
    projector_hidden_size=2048,
    projection_size=1000,
    projector_output_norm=True,
)
jmi(
    "align_uniform",
    "2005.10242",
    kind="surrogate",
    relations="τ = ¼ makes T = −2 ‖a − b‖²; half of the positives' score against the partition function of each view",
    critic="normalized_l2",
    temperature=0.25,
    joint={"expected_score": 0.5},
    marginal={"uniformity": 1.0},
)
jmi(
    "barlow_twins",
    "2103.03230",
    kind="surrogate",
    relations="second order in moments: redundancy stands for the marginal variance only near invariance, where the "
    "correlation of the views is that within a view",
    critic="bilinear",
    temperature=1.0,
    joint={"invariance": 1.0},
    marginal={"redundancy": 0.0051},
    projector_num_layers=3,
    projector_hidden_size=8192,
    projection_size=8192,
)
jmi(
    "vicreg",
    "2105.04906",
    kind="surrogate",
    relations="second order of T = −‖a − b‖²/2τ for Gaussian embeddings of equal covariance, its pull of the variance"
    " made a hinge; covariance is the rest of tr(Σ²)",
    critic="negative_squared_distance",
    temperature=1.0,
    joint={"negative_mse": 25.0},
    marginal={"variance": 25.0, "covariance": 1.0},
    projector_num_layers=3,
    projector_hidden_size=8192,
    projection_size=8192,
)
jmi(
    "w_mse",
    "2007.06346",
    kind="surrogate",
    relations="white embeddings, before they are normalised, have a constant second-order marginal tr(Σ_AΣ_B) = D: "
    "the critic stands in for M; the whole batch is whitened, its covariance shrunk by 1e-3 (published: "
    "parts of 128 images, not shrunk)",
    critic="whitened_cosine",
    temperature=1.0,
    joint={"expected_score": 2.0},
    marginal={},
    projector_hidden_size=1024,
    projection_size=64,
)
jmi(
    "corinfomax",
    "2209.07999",
    kind="surrogate",
    relations="the log-determinant is the marginal of T = −‖a − b‖²/2τ for Gaussian embeddings of equal covariance at"
    " τ = 2e-8, the invariance is its joint term at τ = 1/125: the two make DV, up to scale and a constant,"
    " where every eigenvalue of the covariance is far above 1/250; covariances are those of the batch "
    "(published: they run over batches, with a weight of 0.01 of the past)",
    critic="normalized_l2",
    temperature=1.0,
    joint={"negative_mse_on_sphere": 250.0},
    marginal={"log_det": 1.0},
    projector_num_layers=3,
    projector_hidden_size=2048,
    projector_hidden_norm=False,
    projection_size=64,
)
jmi(
    "lejepa",
    "2511.08544",
    kind="surrogate",
    relations="λ = 0.02: invariance and all moments at once, pulled to an isotropic Gaussian's, whose embeddings need"
    " no other marginal; two views are each half their distance from their mean, hence 0.245 = (1 − λ)/4; "
    "local views are compared in pairs, not with the mean of all",
    critic="negative_squared_distance",
    temperature=1.0,
    joint={"negative_mse": 0.245},
    marginal={"sketched_gaussianity": 0.02},
    projector_num_layers=3,
    projector_hidden_size=2048,
)
