# A SegFormer of the Hugging Face hub, trained on Cityscapes, teaches a small student CamVid's 11 classes: run it on a
# machine with internet, or give `path` a folder that `save_pretrained` wrote. 15 MB are fetched, once.
_base_ = ["../../configs/student/fpn_r18-w12_camvid-128.py"]
distill = dict(
    teachers=[
        dict(
            type="hf",
            path="nvidia/segformer-b0-finetuned-cityscapes-512-1024",
            input_size=512,  # it was trained on images of four times this student's size
            # CamVid's classes as SegNet's authors grouped them; trains and motorcycles have no part.
            classes={
                "road": "Road",
                "sidewalk": "Pavement",
                "building": "Building",
                "wall": "Building",
                "fence": "Fence",
                "pole": "Pole",
                "traffic light": "SignSymbol",
                "traffic sign": "SignSymbol",
                "vegetation": "Tree",
                "terrain": "Tree",
                "sky": "Sky",
                "person": "Pedestrian",
                "rider": "Bicyclist",
                "bicycle": "Bicyclist",
                "car": "Car",
                "truck": "Car",
                "bus": "Car",
                "train": None,
                "motorcycle": None,
            },
        )
    ],
    losses=dict(logits=dict(type="KL", on="logits", weight=3.0)),
)
