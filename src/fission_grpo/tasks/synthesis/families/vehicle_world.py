"""The world of `VehicleControlAPI` requests, and what it may lack: a running engine, locked doors, a pressed brake."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import Draw, InitialState, Setup, Wordings, call

DOORS = ("driver", "passenger", "rear_left", "rear_right")


def parked_car(rng: Random) -> dict[str, Any]:
    """The state of a car that is locked, with its engine off."""
    return {
        "random_seed": rng.randint(1, 10**6),
        "fuelLevel": vocabulary.price(rng, 4, 25),
        "batteryVoltage": rng.randint(110, 138) / 10,
        "engineState": "stopped",
        "doorStatus": dict.fromkeys(DOORS, "locked"),
        "acTemperature": rng.randint(32, 52) / 2,
        "fanSpeed": rng.randint(10, 90),
        "acMode": rng.choice(("auto", "cool", "heat", "defrost")),
        "humidityLevel": rng.randint(60, 160) / 2,
        "headLightStatus": "off",
        "parkingBrakeStatus": "released",
        "brakePedalStatus": "released",
        "brakePedalForce": 0.0,
        "distanceToNextVehicle": float(rng.randint(40, 200)),
        "cruiseStatus": "inactive",
        "destination": "None",
        "frontLeftTirePressure": rng.randint(56, 68) / 2,
        "frontRightTirePressure": rng.randint(56, 68) / 2,
        "rearLeftTirePressure": rng.randint(56, 68) / 2,
        "rearRightTirePressure": rng.randint(56, 68) / 2,
    }


def _ignition(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """Unmet: the doors are open, the brake is not pressed, or both; the engine itself is the request's business."""
    doors, brake = initial.rng.choice(((True, False), (False, True), (True, True))) if unmet else (False, False)
    if doors:
        initial.state["doorStatus"] = dict.fromkeys(DOORS, "unlocked")
    if not brake:
        initial.state["brakePedalStatus"], initial.state["brakePedalForce"] = "pressed", 1000.0
    lock = (call("lockDoors", unlock=False, door=list(DOORS)),) if doors else ()
    press = (call("pressBrakePedal", pedalPosition=1.0),) if brake else ()
    return Draw(slots={"pedal": 1.0}, calls=lock + press)


def _running(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """Unmet: the engine is off; then the doors or the brake may be in the way as well."""
    if not unmet:
        initial.state["engineState"] = "running"
        return Draw(slots={"mode": "START", "pedal": 1.0}, calls=())
    ready = _ignition(initial, request, unmet=initial.rng.random() < 0.5)
    start = call("startEngine", ignitionMode="START")
    return Draw(slots={"mode": "START", "pedal": 1.0}, calls=(*ready.calls, start))


IGNITION = Setup(
    name="ignition",
    fixers=("lockDoors", "pressBrakePedal", "startEngine"),
    arrange=_ignition,
    notes=Wordings(
        train=(
            "lock the doors and press the brake to {pedal} if the car asks for it",
            "if needed, lock all doors and press the brake pedal to {pedal}",
            "the brake pedal goes to {pedal} and the doors get locked if the car needs it",
            "all doors may be locked and the brake pressed to {pedal}",
            "if the car needs it, press the brake to {pedal} or lock the doors",
            "you may press the brake pedal to {pedal} and lock all doors if needed",
        ),
        heldout=(
            "if the car asks for it, press the brake pedal to {pedal} and lock all doors",
            "you may lock the doors and press the brake to {pedal} if the car needs it",
        ),
    ),
)

RUNNING = Setup(
    name="running",
    fixers=("lockDoors", "pressBrakePedal", "startEngine"),
    arrange=_running,
    notes=Wordings(
        train=(
            "if the engine is off, start it with {mode}, with the brake at {pedal} and the doors locked",
            "the engine may be off: then lock the doors, press the brake to {pedal} and use {mode}",
            "start the engine with {mode} if needed, brake pedal at {pedal}, all doors locked",
            "if needed, lock all doors, press the brake to {pedal} and start the engine with {mode}",
            "use {mode} to start the engine if it is off, with locked doors and the pedal at {pedal}",
            "when the engine is off, use {mode}, press the pedal to {pedal} and lock the doors",
        ),
        heldout=(
            "if the engine is off, lock all doors, press the brake pedal to {pedal} and use {mode}",
            "when needed, start the engine with {mode}, with the doors locked and the brake at {pedal}",
        ),
    ),
)
