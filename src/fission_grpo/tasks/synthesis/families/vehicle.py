"""Requests to `VehicleControlAPI`: cruising wants a running engine, the engine wants locked doors and the brake."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import Api, Family, Need, Part, Scene, Wordings, call, one_call

DOORS = ("driver", "passenger", "rear_left", "rear_right")

ZIPCODES = {
    "Rivermist": "83214",
    "Stonebrook": "74532",
    "Maplecrest": "56108",
    "Silverpine": "62947",
    "Shadowridge": "71354",
    "Sunset Valley": "83462",
    "Oakendale": "47329",
    "Willowbend": "52013",
    "Crescent Hollow": "69238",
    "Autumnville": "51479",
    "San Francisco": "94016",
}
"""The cities that the official class knows."""

ROUTES = (
    ("Rivermist", "Stonebrook"),
    ("Maplecrest", "Silverpine"),
    ("Shadowridge", "Sunset Valley"),
    ("Oakendale", "Willowbend"),
    ("Crescent Hollow", "Autumnville"),
    ("San Francisco", "Rivermist"),
    ("Silverpine", "Oakendale"),
    ("San Francisco", "Silverpine"),
    ("Stonebrook", "San Francisco"),
)
"""Pairs of cities whose distance the official class knows."""

TIRE_SHOP = "456 Oakwood Avenue, Rivermist, 83214"


def _scene(rng: Random) -> dict[str, Any]:
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


def _ignition(scene: Scene, part: Part, unmet: bool) -> Part:
    """Unmet: the doors are open, the brake is not pressed, or both; the engine itself is the part's business."""
    doors, brake = scene.rng.choice(((True, False), (False, True), (True, True))) if unmet else (False, False)
    if doors:
        scene.state["doorStatus"] = dict.fromkeys(DOORS, "unlocked")
    if not brake:
        scene.state["brakePedalStatus"], scene.state["brakePedalForce"] = "pressed", 1000.0
    lock = (call("lockDoors", unlock=False, door=list(DOORS)),) if doors else ()
    press = (call("pressBrakePedal", pedalPosition=1.0),) if brake else ()
    return Part(slots={"pedal": 1.0}, calls=lock + press)


def _running(scene: Scene, part: Part, unmet: bool) -> Part:
    """Unmet: the engine is off; then the doors or the brake may be in the way as well."""
    if not unmet:
        scene.state["engineState"] = "running"
        return Part(slots={"mode": "START", "pedal": 1.0}, calls=())
    ready = _ignition(scene, part, unmet=scene.rng.random() < 0.5)
    start = call("startEngine", ignitionMode="START")
    return Part(slots={"mode": "START", "pedal": 1.0}, calls=(*ready.calls, start))


IGNITION = Need(
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

RUNNING = Need(
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


def _start(scene: Scene) -> Part:
    return one_call("startEngine", ignitionMode="START")


def _cruise(scene: Scene) -> Part:
    return one_call(
        "setCruiseControl",
        speed=scene.rng.randint(4, 24) * 5,
        activate=True,
        distanceToNextVehicle=scene.rng.randint(20, 200),
    )


def _fuel(scene: Scene) -> Part:
    return one_call("fillFuelTank", fuelAmount=scene.rng.randint(2, 48) / 2)


def _climate(scene: Scene) -> Part:
    return one_call(
        "adjustClimateControl",
        temperature=scene.rng.randint(34, 54) / 2,
        unit="celsius",
        fanSpeed=scene.rng.randint(2, 98),
        mode=scene.rng.choice(("auto", "cool", "heat", "defrost")),
    )


def _lights(scene: Scene) -> Part:
    scene.state["headLightStatus"] = scene.rng.choice(("on", "off"))
    return one_call("setHeadlights", mode=scene.rng.choice(("on", "off", "auto")))


def _parking(scene: Scene) -> Part:
    mode = scene.rng.choice(("engage", "release"))
    scene.state["parkingBrakeStatus"] = "released" if mode == "engage" else "engaged"
    return one_call("activateParkingBrake", mode=mode)


def _lock(scene: Scene) -> Part:
    doors = vocabulary.several(scene.rng, DOORS, 1, 3)
    scene.state["doorStatus"] = {door: "unlocked" if door in doors else "locked" for door in DOORS}
    return Part(slots={"door": doors}, calls=(call("lockDoors", unlock=False, door=doors),))


def _unlock(scene: Scene) -> Part:
    doors = vocabulary.several(scene.rng, DOORS, 1, 3)
    return Part(slots={"door": doors}, calls=(call("lockDoors", unlock=True, door=doors),))


def _pedal(scene: Scene) -> Part:
    return one_call("pressBrakePedal", pedalPosition=scene.rng.randint(1, 19) / 20)


def _status(scene: Scene) -> Part:
    options = ("fuel", "battery", "doors", "climate", "headlights", "parkingBrake", "brakePedal", "engine")
    return one_call("displayCarStatus", option=scene.take(options))


def _address(rng: Random) -> str:
    return f"{rng.randint(2, 980)} {rng.choice(vocabulary.NOUNS).title()} Road"


def _navigate(scene: Scene) -> Part:
    return one_call("set_navigation", destination=_address(scene.rng))


def _tires(scene: Scene) -> Part:
    return one_call("check_tire_pressure")


def _tire_shop(scene: Scene) -> Part:
    calls = (call("find_nearest_tire_shop"), call("set_navigation", destination=TIRE_SHOP))
    return Part(slots={}, calls=calls)


def _distance(scene: Scene) -> Part:
    start, goal = scene.rng.sample(scene.rng.choice(ROUTES), 2)
    calls = (
        call("get_zipcode_based_on_city", city=start),
        call("get_zipcode_based_on_city", city=goal),
        call("estimate_distance", cityA=ZIPCODES[start], cityB=ZIPCODES[goal]),
    )
    return Part(slots={"start": start, "goal": goal}, calls=calls)


def _zipcode(scene: Scene) -> Part:
    return one_call("get_zipcode_based_on_city", city=scene.take(sorted(ZIPCODES)))


def _feasible(scene: Scene) -> Part:
    return one_call("estimate_drive_feasibility_by_mileage", distance=scene.rng.randint(40, 900))


VEHICLE = Api(
    name="VehicleControlAPI",
    scene=_scene,
    families=(
        Family(
            name="start",
            draw=_start,
            needs=(IGNITION,),
            topic="engine",
            weight=3.0,
            wordings=Wordings(
                train=(
                    "start the engine with mode {ignitionMode}",
                    "start the car, ignition mode {ignitionMode}",
                    "turn on the engine with ignition mode {ignitionMode}",
                    "get the engine running, mode {ignitionMode}",
                    "use ignition mode {ignitionMode} to start the car",
                    "bring the engine up with {ignitionMode}",
                ),
                heldout=("turn on the car, ignition mode {ignitionMode}", "start the engine, use mode {ignitionMode}"),
            ),
        ),
        Family(
            name="cruise",
            draw=_cruise,
            needs=(RUNNING,),
            topic="engine",
            weight=5.0,
            wordings=Wordings(
                train=(
                    "set cruise control to {speed} with a distance of {distanceToNextVehicle}",
                    "turn on cruise control at speed {speed}, distance {distanceToNextVehicle}",
                    "activate the cruise control: speed {speed}, next car at {distanceToNextVehicle}",
                    "cruise at {speed} and keep a distance of {distanceToNextVehicle} to the next car",
                    "keep {distanceToNextVehicle} to the next car and cruise at speed {speed}",
                    "with distance {distanceToNextVehicle}, activate cruise control at {speed}",
                ),
                heldout=(
                    "activate cruise control at {speed} and keep a distance of {distanceToNextVehicle}",
                    "set the cruise control: speed {speed}, distance to the next car {distanceToNextVehicle}",
                ),
            ),
        ),
        Family(
            name="fuel",
            draw=_fuel,
            topic="fuel",
            wordings=Wordings(
                train=(
                    "fill the tank with {fuelAmount} gallons",
                    "add {fuelAmount} gallons of fuel",
                    "put {fuelAmount} gallons into the fuel tank",
                    "fill in {fuelAmount} gallons of fuel",
                    "refuel the car with {fuelAmount} gallons",
                    "the tank needs {fuelAmount} gallons, fill it",
                ),
                heldout=("put {fuelAmount} gallons of fuel into the tank", "fill the car with {fuelAmount} gallons"),
            ),
        ),
        Family(
            name="climate",
            draw=_climate,
            topic="climate",
            wordings=Wordings(
                train=(
                    "set the climate to {temperature} {unit}, fan speed {fanSpeed}, mode {mode}",
                    "adjust the climate: {temperature} {unit}, fan {fanSpeed}, mode {mode}",
                    "climate control at {temperature} {unit} with fan speed {fanSpeed} in mode {mode}",
                    "make it {temperature} {unit} in the car, fan at {fanSpeed}, mode {mode}",
                    "put the climate mode to {mode} with fan {fanSpeed} and {temperature} {unit}",
                    "fan speed {fanSpeed}, temperature {temperature} {unit}, climate mode {mode}",
                ),
                heldout=(
                    "adjust the climate control to {temperature} {unit} with fan speed {fanSpeed}, mode {mode}",
                    "set the temperature in the car to {temperature} {unit}, fan at {fanSpeed} in mode {mode}",
                ),
            ),
        ),
        Family(
            name="lights",
            draw=_lights,
            topic="lights",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "set the headlights to {mode}",
                    "turn the headlights {mode}",
                    "put the headlights in mode {mode}",
                    "switch the lights to {mode}",
                    "headlights to mode {mode}",
                    "the lights should be {mode}, set the headlights",
                ),
                heldout=("switch the headlights to {mode}", "set the lights to mode {mode}"),
            ),
        ),
        Family(
            name="parking",
            draw=_parking,
            topic="parking",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "{mode} the parking brake",
                    "set the parking brake, mode {mode}",
                    "the parking brake should get mode {mode}",
                    "use the parking brake with mode {mode}",
                    "put the parking brake to {mode}",
                    "activate the mode {mode} of the parking brake",
                ),
                heldout=("use the parking brake, mode {mode}", "set the parking brake to {mode}"),
            ),
        ),
        Family(
            name="lock",
            draw=_lock,
            topic="engine",
            wordings=Wordings(
                train=(
                    "lock these doors: {door}",
                    "please lock {door}",
                    "make sure that {door} get locked",
                    "lock the car doors {door}",
                    "the doors {door} should be locked",
                    "close and lock {door}",
                ),
                heldout=("make sure the doors {door} get locked", "lock these car doors: {door}"),
            ),
        ),
        Family(
            name="unlock",
            draw=_unlock,
            topic="engine",
            wordings=Wordings(
                train=(
                    "unlock these doors: {door}",
                    "please unlock {door}",
                    "make sure that {door} get unlocked",
                    "unlock the car doors {door}",
                    "the doors {door} should be unlocked",
                    "open and unlock {door}",
                ),
                heldout=("make sure the doors {door} get unlocked", "unlock these car doors: {door}"),
            ),
        ),
        Family(
            name="pedal",
            draw=_pedal,
            topic="engine",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "press the brake pedal to {pedalPosition}",
                    "push the brake to position {pedalPosition}",
                    "put the brake pedal at {pedalPosition}",
                    "brake with the pedal at {pedalPosition}",
                    "press the brake to position {pedalPosition}",
                    "set the pedal of the brake to {pedalPosition}",
                ),
                heldout=(
                    "push the brake pedal to {pedalPosition}",
                    "put the pedal of the brake at position {pedalPosition}",
                ),
            ),
        ),
        Family(
            name="status",
            draw=_status,
            topic="status",
            wordings=Wordings(
                train=(
                    "show the car status for {option}",
                    "display the status of {option}",
                    "check the {option} status of the car",
                    "tell me the car status, option {option}",
                    "what is the status of {option}, show it",
                    "give me the status display for {option}",
                ),
                heldout=("display the car status for {option}", "show me the status of option {option}"),
            ),
        ),
        Family(
            name="navigate",
            draw=_navigate,
            topic="navigation",
            wordings=Wordings(
                train=(
                    "navigate to {destination}",
                    "set the navigation to {destination}",
                    "take me to {destination}",
                    "bring up the navigation for {destination}",
                    "I want to drive to {destination}, set the navigation",
                    "route me to {destination}",
                ),
                heldout=("set up the navigation to {destination}", "I want to navigate to {destination}"),
            ),
        ),
        Family(
            name="tires",
            draw=_tires,
            topic="tires",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "check the tire pressure",
                    "show me the tire pressure",
                    "how is the pressure of my tires, check it",
                    "check my tires",
                    "get the pressure of the tires",
                    "tell me the tire pressure",
                ),
                heldout=("show me the pressure of my tires", "get the tire pressure"),
            ),
        ),
        Family(
            name="tire_shop",
            draw=_tire_shop,
            topic="navigation",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the nearest tire shop and navigate there",
                    "navigate to the nearest tire shop",
                    "look for a tire shop and set the navigation to it",
                    "take me to the nearest tire shop",
                    "find a tire shop and bring me there",
                    "set the navigation to the nearest tire shop",
                ),
                heldout=(
                    "find the nearest tire shop and take me there",
                    "look for the nearest tire shop and navigate to it",
                ),
            ),
        ),
        Family(
            name="distance",
            draw=_distance,
            topic="distance",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "estimate the distance from {start} to {goal} by their zipcodes",
                    "how far is it from {start} to {goal}, use the zipcodes",
                    "find the zipcodes of {start} and {goal} and estimate the distance",
                    "get the zipcodes of {start} and {goal}, and with them the distance",
                    "with the zipcodes of {start} and {goal}, estimate how far it is",
                    "tell me the distance between {start} and {goal}, look up both zipcodes first",
                ),
                heldout=(
                    "look up the zipcodes of {start} and {goal} and tell me the distance",
                    "estimate how far it is from {start} to {goal} by their zipcodes",
                ),
            ),
        ),
        Family(
            name="zipcode",
            draw=_zipcode,
            topic="distance",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the zipcode of {city}",
                    "look up the zipcode of the city {city}",
                    "tell me the zipcode for {city}",
                    "what is the zipcode of {city}, find it",
                    "get the zipcode for the city {city}",
                    "give me the zipcode of {city}",
                ),
                heldout=("look up the zipcode for {city}", "find the zipcode of the city {city}"),
            ),
        ),
        Family(
            name="feasible",
            draw=_feasible,
            topic="fuel",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "can the car drive {distance} miles, check the mileage",
                    "estimate if we can drive {distance} miles",
                    "check if the fuel is enough for {distance} miles",
                    "tell me if the car can go {distance} miles",
                    "is a drive of {distance} miles possible, estimate it",
                    "check whether {distance} miles are possible by mileage",
                ),
                heldout=(
                    "estimate if the car can go {distance} miles by mileage",
                    "check if a drive of {distance} miles is possible",
                ),
            ),
        ),
    ),
)
